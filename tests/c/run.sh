#!/usr/bin/env bash
# run.sh [plain|asan|tsan] ... - build the engine without Python and run every C test (default: plain).
#
# asan: address and undefined-behaviour sanitizers with OpenMP. tsan: the thread sanitizer with the pthread
# team of parallel.c (libgomp is not instrumented). All SIMD levels are tested; where the processor has no
# AVX-512, the 16-lane level in emulation.
#
# Environment: PYTHON finds OpenBLAS (scipy_openblas32), CC, JOBS compilers run at a time, KEEP=folder to
# build there and keep it, TESTS="test_memory ..." to run these alone, OBJECTS=folder where setup.py has left
# the engine's objects (with FASTNET_EMULATE_V4=1 if there is no AVX-512): plain tests then link those.
# SWEEP=full lets test_vmath try every float (a quarter of an hour a level).
# For another processor CC is its compiler and RUN its emulator; see docs/architecture.md for aarch64.
# Exits nonzero if anything fails.
set -u -o pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
csrc=$here/../../csrc
python=${PYTHON:-python3} cc=${CC:-gcc} jobs=${JOBS:-$(nproc)}

openblas() { "$python" -c "import scipy_openblas32 as o; print(o.get_$1())"; }
include=$(openblas include_dir) && lib=$(openblas lib_dir) && blas=$(openblas library) || exit 2

build=${KEEP:-$(mktemp -d "${TMPDIR:-/tmp}/fastnet-c.XXXXXX")}
[ -n "${KEEP:-}" ] || trap 'rm -rf "$build"' EXIT

v3="-mavx2 -mfma -mbmi -mbmi2 -mf16c -mlzcnt -mpopcnt"
v4="$v3 -mavx512f -mavx512bw -mavx512cd -mavx512dq -mavx512vl -mprefer-vector-width=512"
levels="base" emulate=
# shellcheck disable=SC2086
if [[ $($cc -dumpmachine) == x86_64* ]]; then
    levels="v4 v3 base" # what takes the compiler longest first
    grep -qw avx512vl /proc/cpuinfo 2>/dev/null || emulate=-DFN_EMULATE_V4 v4=$v3
fi
level_flags() {
    case $1 in
    base) echo "-DFN_LEVEL=base -DFN_LANES=4" ;;
    v3) echo "-DFN_LEVEL=v3 -DFN_LANES=8 $v3" ;;
    v4) echo "-DFN_LEVEL=v4 -DFN_LANES=16 $v4" ;;
    esac
}

common="-O3 -std=gnu11 -ffp-contract=off -fno-math-errno -fno-trapping-math -Wall -Wextra -Wno-psabi"
common="$common -Werror=implicit-function-declaration -Wno-unknown-pragmas $emulate -I$csrc -I$csrc/kernels -I$include"
flavour_flags() {
    case $1 in
    plain) echo "$common -fopenmp" ;;
    asan) echo "$common -fopenmp -fsanitize=address,undefined -fno-sanitize-recover=undefined" \
        "-fno-omit-frame-pointer -O1 -g1" ;;
    tsan) echo "$common -DFN_PTHREADS -pthread -fsanitize=thread -fno-omit-frame-pointer -O1 -g1" ;;
    *) echo "unknown flavour '$1': plain, asan or tsan" >&2 && exit 2 ;;
    esac
}

wanted() { [ -z "${TESTS:-}" ] || [[ " $TESTS " == *" $1 "* ]]; }

# Commands wait in a file until run_queue runs them, some at a time; it fails if one fails.
queue() { printf '%q ' "$@" >>"$build/queue" && echo >>"$build/queue"; }
run_queue() {
    xargs -d '\n' -P "$jobs" -I{} bash -c {} <"$build/queue"
    local result=$?
    : >"$build/queue"
    return $result
}

# A source is compiled unless its object is newer than every file of the engine.
compile() { # source, object, flags ...
    local source=$1 object=$2
    shift 2
    objects+=("$object")
    [ -z "$(find "$csrc" -newer "$object" -print -quit 2>&1)" ] && return
    mkdir -p "$(dirname "$object")"
    # shellcheck disable=SC2086
    queue $cc "$@" -c "$source" -o "$object"
}

engine() { # folder, flags ...: the engine's objects in the array `objects`
    local folder=$1 level source
    shift
    for level in $levels; do
        # shellcheck disable=SC2012,SC2045
        for source in $(ls -S "$csrc"/ops/*.c "$csrc"/kernels/*.c); do
            # shellcheck disable=SC2046
            compile "$source" "$folder/$level/$(basename "$source" .c).o" "$@" $(level_flags "$level")
        done
    done
    for source in "$csrc"/*.c "$csrc"/kmeans/*.c; do
        compile "$source" "$folder/$(basename "$source" .c).o" "$@"
    done
}

programs() { # folder, flags ...: every C test, and test_vmath, which needs no engine, once per level
    local folder=$1 level name
    shift
    for name in $tests; do
        # shellcheck disable=SC2086
        queue $cc "$@" -O1 "$here/$name.c" "${objects[@]}" -o "$folder/$name" -L"$lib" -Wl,-rpath,"$lib" \
            -l"$blas" -lm -lpthread
    done
    for level in $vmath; do
        # shellcheck disable=SC2046,SC2086
        queue $cc "$@" $(level_flags "$level") "$here/test_vmath.c" -lm -o "$folder/test_vmath-$level"
    done
}

failures=0
try() { # what, program, argument
    local begin=$SECONDS
    echo "== $1"
    # shellcheck disable=SC2086
    ${RUN:-} "$2" ${3:-} || { echo "FAILED: $1" && failures=$((failures + 1)); }
    echo "   ($((SECONDS - begin)) s)"
}

export FASTNET_ALWAYS_THREAD=1 OPENBLAS_NUM_THREADS=1
export ASAN_OPTIONS=allocator_may_return_null=1:detect_stack_use_after_return=1:${ASAN_OPTIONS:-}
export UBSAN_OPTIONS=print_stacktrace=1:${UBSAN_OPTIONS:-} TSAN_OPTIONS=halt_on_error=1:${TSAN_OPTIONS:-}

for flavour in "${@:-plain}"; do
    begin=$SECONDS
    flags=$(flavour_flags "$flavour") || exit 2
    folder=$build/$flavour tests= vmath= objects=()
    mkdir -p "$folder"
    : >"$build/queue"
    for source in "$here"/test_*.c; do
        name=$(basename "$source" .c)
        wanted "$name" || continue
        if [ "$name" != test_vmath ]; then
            tests="$tests $name"
        elif [ "$flavour" != tsan ]; then # it has one thread
            vmath=$levels
        fi
    done
    [ -n "$tests$vmath" ] || { echo "no C test ($flavour) is named ${TESTS:-}" >&2 && exit 2; }
    # shellcheck disable=SC2086
    if [ "$flavour" = plain ] && [ -n "${OBJECTS:-}" ]; then
        mapfile -t objects < <(find "$OBJECTS" -name '*.o' ! -name _core.o | sort)
    elif [ -n "$tests" ]; then
        engine "$folder" $flags
        echo "== $flavour: $(wc -l <"$build/queue") sources to compile"
        run_queue || exit 1
    fi
    # shellcheck disable=SC2086
    programs "$folder" $flags
    run_queue || exit 1
    echo "   (built in $((SECONDS - begin)) s)"
    for name in $tests; do try "$name ($flavour)" "$folder/$name"; done
    for level in $vmath; do try "test_vmath ($flavour, $level)" "$folder/test_vmath-$level" "${SWEEP:-}"; done
done
[ "$failures" = 0 ] && echo "all C tests passed" || { echo "$failures failed" && exit 1; }
