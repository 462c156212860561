#!/usr/bin/env bash
# What a GPU shows: the PX benchmark and the photo dataset's sweeps, in chunks that each end within nine minutes.
#
#     bash scripts/gpu_evidence.sh            # again and again, until its exit status is 0 (75: there is more to do)
#
# Paths are relative to the project's folder.
#
#   --out DIR      where all of it goes (runs/gpu, or runs/gpu_rehearsal); DIR/evidence gathers what belongs in docs
#   --data DIR     the photo dataset (data/photo), composed first if it is not there, which takes Debian's packages
#   --jobs N       runs of a sweep at a time (8)
#   --seconds N    when a chunk must end (480); what was under way ends within another minute
#   --dry_run      print what would be run, check the sweep, start nothing
#   --rehearse     the same steps, tiny and on the CPU
set -euo pipefail
cd "$(dirname "$0")/.."

out= data=data/photo seconds=480 jobs=8 dry_run= rehearse=
while [ $# -gt 0 ]; do
    case $1 in
        --out | --data | --seconds | --jobs) [ $# -gt 1 ] || { echo "error: $1 takes a value" >&2; exit 2; } ;;&
        --out) out=$2; shift 2 ;;
        --data) data=$2; shift 2 ;;
        --seconds) seconds=$2; shift 2 ;;
        --jobs) jobs=$2; shift 2 ;;
        --dry_run) dry_run=1; shift ;;
        --rehearse) rehearse=1; shift ;;
        *) echo "error: there is no flag $1: --out, --data, --seconds, --jobs, --dry_run and --rehearse are the only ones" >&2; exit 2 ;;
    esac
done
for flag in seconds jobs; do
    [[ ${!flag} =~ ^[1-9][0-9]*$ ]] || { echo "error: --$flag takes a whole number above 0, got ${!flag}" >&2; exit 2; }
done
out=${out:-runs/gpu${rehearse:+_rehearsal}}
[ ! -e "$out" ] || [ -d "$out" ] || { echo "error: --out $out is a file, not a folder" >&2; exit 2; }
end=$((SECONDS + seconds))
export PYTHONUNBUFFERED=1

# Run a step until the chunk ends. One that has not ended then is resumed by the next chunk, or started again.
within_the_chunk() {
    local left=$((end - SECONDS)) status=124
    if [ "$left" -gt 0 ]; then
        status=0
        timeout --signal TERM --kill-after 50 "$left" "$@" || status=$?
    fi
    [ "$status" -ne 0 ] && [ "$SECONDS" -ge "$end" ] || return "$status"
    if [ -n "${anew:-}" ] && [ $((left * 10)) -ge $((seconds * 9)) ]; then
        echo "error: $* takes more than a whole chunk: raise --seconds above $seconds" >&2
        exit 1
    fi
    echo "this chunk is over: run the script again" >&2
    exit 75
}

# Run a benchmark once, its output kept as NAME.md when it is whole.
bench() {
    local file=$out/evidence/$1.md anew=1
    shift
    if [ -n "$dry_run" ]; then echo "+ python $*"; return; fi
    [ ! -f "$file" ] || return 0
    echo "+ python $*"
    { printf '    python %s\n\n' "$*"; within_the_chunk python "$@"; } > "$file.part" || { cat "$file.part"; exit 1; }
    mv "$file.part" "$file"
}

if [ -n "$rehearse" ]; then
    size=(--device cpu --encoder resnet18 --batch_size 2 --side 64) few=(--batches 1) whole=(--batches 1 --rounds 2)
    precisions=(float32) criteria=(--repeats 1 --methods '[px,random]')
    presets=(photo)
    sweep=(--gpus none --weights none --data.name synthetic --data.also '[]' --data.size 32 --data.train_images 16
        --data.val_images 4 --data.workers 0 --encoder resnet18 --epochs 2 --rounds 2 --batch_size 8
        --pruning.batches 1 --pruning.batch_size 4 --methods random,dense --sparsities 0.9 --seeds 0)
else
    size=(--device cuda --side 512) few=(--batches 8) whole=(--batches 53 --rounds 100 --sparsity 0.9313)
    precisions=(float32 tf32 bfloat16) criteria=(--repeats 2)
    presets=(photo photo_resnet18)
    sweep=(--gpus 0 --jobs "$jobs" --data.root "$data")
    if [ -z "$dry_run" ]; then
        python -c 'import sys, torch; sys.exit(not torch.cuda.is_available())' ||
            { echo "error: there is no CUDA GPU here: --rehearse needs none" >&2; exit 2; }
        [ -d "$data/VOCdevkit" ] || within_the_chunk python scripts/make_photo_voc.py "$data" --size 160 --objects 128
    fi
fi

[ -n "$dry_run" ] || mkdir -p "$out/evidence"
for precision in "${precisions[@]}"; do
    bench "px_round_$precision" scripts/bench_px.py round "${size[@]}" "${few[@]}" --precision "$precision"
    bench "px_prune_$precision" scripts/bench_px.py prune "${size[@]}" "${whole[@]}" --precisions "[$precision]"
done
bench criteria_cost scripts/bench_criteria.py cost "${size[@]}" "${few[@]}" "${criteria[@]}"

for preset in "${presets[@]}"; do
    run=(python scripts/sweep.py --preset "$preset" --output_dir "$out/$preset" "${sweep[@]}")
    echo "+ ${run[*]}"
    if [ -n "$dry_run" ] && [ -z "$rehearse" ] && [ ! -d "$data/VOCdevkit" ]; then
        echo "$data is not there yet: it would be composed first"
        continue
    fi
    if [ -n "$dry_run" ] && [ "$preset" = photo_resnet18 ] && [ ! -d runs/objects ]; then
        echo "runs/objects, which it starts from, is not there yet: it would be trained first"
        continue
    fi
    if [ -n "$dry_run" ]; then "${run[@]}" --dry_run; continue; fi
    if [ "$preset" = photo_resnet18 ] && [ ! -f runs/objects/results.json ]; then
        resume=()
        [ ! -d runs/objects ] || resume=(--resume)
        within_the_chunk python scripts/cls.py --config configs/cls/photo_objects.yaml --data.root "$data/objects" \
            --output_dir runs/objects "${resume[@]}"
    fi
    status=0
    within_the_chunk "${run[@]}" || status=$?
    if [ -d "$out/$preset/report" ]; then
        mkdir -p "$out/evidence/$preset"
        cp "$out/$preset"/report/* "$out/evidence/$preset/"
    fi
    [ "$status" -eq 0 ] || { echo "error: not all runs of the sweep are finished, as it says above" >&2; exit "$status"; }
done
[ -n "$dry_run" ] || echo "all of it is in $out/evidence"
