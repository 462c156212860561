"""A command that gets a signal as it writes, moves or makes a file whose name has a part given.

python -m helpers.ended SIGNAL PART COMMAND...
"""

import os
import signal
import sys

from px_seg.__main__ import main

if __name__ == "__main__":
    name, part, *words = sys.argv[1:]
    sent: list[int] = []

    def watch(event: str, given: tuple) -> None:
        writes = event == "open" and isinstance(given[2], int) and given[2] & os.O_ACCMODE
        if (writes or event in ("os.rename", "os.mkdir")) and part in os.path.basename(str(given[0])) and not sent:
            sent.append(1)
            os.kill(os.getpid(), signal.Signals[name])

    signal.signal(signal.SIGINT, signal.default_int_handler)
    sys.addaudithook(watch)
    main(words)
