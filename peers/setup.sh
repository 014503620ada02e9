#!/usr/bin/env bash
# Builds the peers under $PEERS_DIR: ggml and llama.cpp (sources from the crate registry; needs cmake, ninja and g++),
# the Rust crates, torch in a virtual environment, OpenBLAS. Registries only; done parts are skipped.
set -euo pipefail
here=$(cd "$(dirname "$0")/workers" && pwd)
dir=${PEERS_DIR:-$HOME/.cache/gristmill-peers}
mkdir -p "$dir"
cd "$dir"
parts=${*:-ggml rust torch openblas candle}
want() { case " $parts " in *" $1 "*) ;; *) return 1 ;; esac; }

apt_install() {
  local sudo
  sudo=$(command -v sudo || true)
  $sudo apt-get -o DPkg::Lock::Timeout=600 update -qq
  DEBIAN_FRONTEND=noninteractive $sudo apt-get -o DPkg::Lock::Timeout=600 install -y -qq --no-install-recommends "$@"
}

if want ggml; then
  { command -v cmake && command -v ninja && command -v g++; } >/dev/null || apt_install cmake ninja-build g++
  cargo fetch --quiet --manifest-path "$here/llama/Cargo.toml"
  sources=$(ls -d "${CARGO_HOME:-$HOME/.cargo}"/registry/src/*/llama-cpp-sys-2-0.1.161/llama.cpp | head -1)
  if [ ! -e llbuild/bin/libllama.so ]; then
    off=()
    # g++ 12 drops stores that ggml's tiles of AMX are configured by: clang where they are used.
    if grep -q amx_int8 /proc/cpuinfo; then
      command -v clang++-14 >/dev/null || apt_install clang-14 libomp-14-dev
      export CC=clang-14 CXX=clang++-14
    fi
    for part in TESTS EXAMPLES SERVER TOOLS COMMON APP UI; do off+=("-DLLAMA_BUILD_$part=OFF"); done
    cmake -S "$sources" -B llbuild -G Ninja -DCMAKE_BUILD_TYPE=Release -DGGML_NATIVE=ON -DGGML_OPENMP=ON \
      -DBUILD_SHARED_LIBS=ON -DLLAMA_OPENSSL=OFF "${off[@]}" >llcfg.log
    ninja -C llbuild ggml llama >llbuild.log
  fi
  lib=$dir/llbuild/bin
  if [ ! ggml_peer -nt "$here/ggml.cpp" ]; then
    g++ -O2 -std=c++17 -I"$sources/ggml/include" -I"$sources/include" "$here/ggml.cpp" -o ggml_peer \
      -L"$lib" -lllama -lggml -lggml-cpu -lggml-base -Wl,-rpath,"$lib"
  fi
fi
if want rust; then
  CARGO_TARGET_DIR=$dir/target cargo build --quiet --release --manifest-path "$here/rust/Cargo.toml"
fi
if want torch || want openblas; then
  [ -d venv ] || python3 -m venv venv || { apt_install python3-venv; python3 -m venv venv; }
  if [ ! -e venv/.ok ]; then
    venv/bin/pip install -q torch==2.15.0 numpy==2.4.6 setuptools
    touch venv/.ok
  fi
fi
if want openblas && [ ! -e /usr/lib/x86_64-linux-gnu/openblas-pthread/libopenblas.so.0 ]; then
  apt_install libopenblas0-pthread
fi
if want candle; then
  # Parts of candle pick their instructions at compile time: native is its best case.
  CARGO_TARGET_DIR=$dir/target_native RUSTFLAGS="-C target-cpu=native" \
    cargo build --quiet --release --manifest-path "$here/candle/Cargo.toml"
fi
