#!/usr/bin/env bash
# run.sh [plain|asan|tsan] ... - build the engine without Python and run every C test (default: plain).
#
# asan: address and undefined-behaviour sanitizers with OpenMP. tsan: the thread sanitizer with the pthread
# team of parallel.c (libgomp is not instrumented). All SIMD levels of this processor are tested, and the
# 16-lane level in emulation. Environment: PYTHON finds OpenBLAS (scipy_openblas32), CC, KEEP=folder to
# build there and keep it, TESTS="test_memory ..." to run these alone. Exits nonzero if anything fails.
set -u -o pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
csrc=$here/../../csrc
python=${PYTHON:-python3} cc=${CC:-gcc}

openblas() { "$python" -c "import scipy_openblas32 as o; print(o.get_$1())"; }
include=$(openblas include_dir) && lib=$(openblas lib_dir) && blas=$(openblas library) || exit 2

build=${KEEP:-$(mktemp -d "${TMPDIR:-/tmp}/fastnet-c.XXXXXX")}
[ -n "${KEEP:-}" ] || trap 'rm -rf "$build"' EXIT

v3="-mavx2 -mfma -mbmi -mbmi2 -mf16c -mlzcnt -mpopcnt"
v4="$v3 -mavx512f -mavx512bw -mavx512cd -mavx512dq -mavx512vl -mprefer-vector-width=512"
levels="base" emulations="native"
if [ "$(uname -m)" = x86_64 ]; then
    levels="base v3 v4" emulations="emulated"
    grep -qw avx512vl /proc/cpuinfo 2>/dev/null && emulations="native emulated"
fi
level_flags() { # level, native or emulated
    case $1-$2 in
    base-*) echo "-DFN_LEVEL=base -DFN_LANES=4" ;;
    v3-*) echo "-DFN_LEVEL=v3 -DFN_LANES=8 $v3" ;;
    v4-native) echo "-DFN_LEVEL=v4 -DFN_LANES=16 $v4" ;;
    v4-emulated) echo "-DFN_LEVEL=v4 -DFN_LANES=16 $v3" ;;
    esac
}

common="-O3 -std=gnu11 -ffp-contract=off -fno-math-errno -fno-trapping-math -Wall -Wextra -Wno-psabi"
common="$common -Wno-unknown-pragmas -I$csrc -I$include"
flavour_flags() {
    case $1 in
    plain) echo "$common -fopenmp" ;;
    asan) echo "$common -fopenmp -fsanitize=address,undefined -fno-sanitize-recover=undefined" \
        "-fno-omit-frame-pointer -O1 -g" ;;
    tsan) echo "$common -DFN_PTHREADS -pthread -fsanitize=thread -fno-omit-frame-pointer -O1 -g" ;;
    *) echo "unknown flavour '$1': plain, asan or tsan" >&2 && exit 2 ;;
    esac
}

# Compile a source unless its object is newer than every file of the engine.
compile() { # source, object, flags ...
    local source=$1 object=$2
    shift 2
    [ -z "$(find "$csrc" -newer "$object" -print -quit 2>&1)" ] && return
    mkdir -p "$(dirname "$object")"
    "$cc" "$@" -c "$source" -o "$object"
}

engine() { # folder, emulation, flags ...: the engine's objects in the array `objects`
    local folder=$1 emulation=$2 level source object
    shift 2
    objects=()
    for source in "$csrc"/*.c "$csrc"/kmeans/*.c; do
        object=$folder/$(basename "$source" .c).o
        compile "$source" "$object" "$@" || return 1
        objects+=("$object")
    done
    for level in $levels; do
        for source in "$csrc"/ops/*.c "$csrc"/kernels/*.c; do
            object=$folder/$level/$(basename "$source" .c).o
            # shellcheck disable=SC2046
            compile "$source" "$object" "$@" $(level_flags "$level" "$emulation") || return 1
            objects+=("$object")
        done
    done
}

wanted() { [ -z "${TESTS:-}" ] || [[ " $TESTS " == *" $1 "* ]]; }
failures=0
try() { # what, command ...
    local what=$1
    shift
    echo "== $what"
    "$@" || { echo "FAILED: $what" && failures=$((failures + 1)); }
}

export FASTNET_ALWAYS_THREAD=1 OPENBLAS_NUM_THREADS=1
export ASAN_OPTIONS=allocator_may_return_null=1:detect_stack_use_after_return=1:${ASAN_OPTIONS:-}
export UBSAN_OPTIONS=print_stacktrace=1:${UBSAN_OPTIONS:-} TSAN_OPTIONS=halt_on_error=1:${TSAN_OPTIONS:-}

for flavour in "${@:-plain}"; do
    flags=$(flavour_flags "$flavour") || exit 2
    for emulation in $emulations; do
        folder=$build/$flavour-$emulation only=
        define=$([ "$emulation" = emulated ] && echo -DFN_EMULATE_V4)
        [ "$emulations-$emulation" = "native emulated-emulated" ] && only=v4 # the rest ran as native
        # shellcheck disable=SC2086
        engine "$folder" "$emulation" $flags $define || exit 1
        for source in "$here"/test_*.c; do
            name=$(basename "$source" .c)
            [ "$name" != test_vmath ] && wanted "$name" || continue
            # shellcheck disable=SC2086
            "$cc" $flags "$source" "${objects[@]}" -o "$folder/$name" -L"$lib" -Wl,-rpath,"$lib" \
                -l"$blas" -lm -lpthread || exit 1
            try "$name ($flavour, $emulation)" "$folder/$name" $only
        done
        [ "$flavour" != tsan ] && wanted test_vmath || continue # it has one thread
        for level in ${only:-$levels}; do
            # shellcheck disable=SC2046,SC2086
            "$cc" $flags -I"$csrc/kernels" $(level_flags "$level" "$emulation") "$here/test_vmath.c" \
                -lm -o "$folder/test_vmath-$level" || exit 1
            try "test_vmath ($flavour, $emulation, $level)" "$folder/test_vmath-$level"
        done
    done
done
[ "$failures" = 0 ] && echo "all C tests passed" || { echo "$failures failed" && exit 1; }
