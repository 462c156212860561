from px_seg.commands import main

if __name__ == "__main__":
    main()
