# make quickstart   from nothing to a trained recommender and its AUC (25 minutes on 2 cores)
# make test         installs everything, builds, runs all tests
# make test-slurm   the Slurm scripts on a private Slurm, as root (5 minutes)
# make test-gpu     on a machine with a GPU: all of that on it, over NCCL too, and compute-sanitizer
.PHONY: help quickstart test test-full test-slurm test-gpu fuzz tsan quality scale setup build benchmark benchmark-check peers docs
.PHONY: format lint install clean

help:
	@sed -n 's/^# make/make/p' Makefile
	@echo "make quality      the longer comparison; writes docs/results.md (an hour)"
	@echo "make scale        time and memory of 250,000 to 2 million users at 8 ranks (half an hour, 16 GB of disk)"
	@echo "make fuzz         damaged model files and checkpoints against their readers, ten minutes under AddressSanitizer and UBSan"
	@echo "make tsan         the parts with threads of their own under ThreadSanitizer"
	@echo "make benchmark-check  hot loops against their bounds, as shares of the machine's own rates (10 minutes)"
	@echo "make peers        training, scoring, graph, halo, METIS and factorization beside other programs (12 minutes)"
	@echo "make setup build benchmark docs format lint install clean"

quickstart:
	@launch/quickstart

quality:
	@launch/quality

test:
	@launch/test

# The parity suite runs whole in `make test`.
test-full: test

test-slurm:
	@launch/test-slurm

test-gpu:
	@launch/test-gpu

# Findings are kept in build/asan/findings; move them to tests/fuzz/regressions/TARGET once they are fixed.
fuzz:
	@launch/setup --test
	@launch/build asan -DGRAPHLORA_TESTS=ON "-DGRAPHLORA_PARTS=core;dist;data;graph;model;train" fuzz
	@ASAN_OPTIONS=detect_leaks=0:max_allocation_size_mb=1024 build/asan/tests/fuzz/fuzz --seconds 600 \
	  --findings build/asan/findings

tsan:
	@launch/setup --test
	@launch/build tsan -DGRAPHLORA_TESTS=ON "-DGRAPHLORA_PARTS=core;dist" dist_watch_test
	@build/tsan/tests/dist/dist_watch_test
	@launch/build release -DGRAPHLORA_TESTS=ON train_tsan_test
	@OMP_NUM_THREADS=1 TSAN_OPTIONS="suppressions=$$PWD/tests/support/tsan.suppressions die_after_fork=0" \
	  build/release/tests/train/train_tsan_test

scale: build
	@.venv/bin/python launch/fetch_model.py run/quickstart/model
	@benchmarks/million_users --users 250000,500000,1000000,2000000 --baseline

setup:
	@launch/setup

build: setup
	@launch/build release

# tokenizer_cli is built with the tests.
benchmark:
	@launch/setup --test
	@launch/build release -DGRAPHLORA_TESTS=ON
	@benchmarks/scaling
	@benchmarks/train_speed
	@build/release/benchmarks/spmm_benchmark
	@build/release/benchmarks/embedding_update
	@benchmarks/shared_prefix_speed
	@benchmarks/shortcuts_speed
	@benchmarks/roofline
	@benchmarks/distributed_step
	@.venv/bin/python benchmarks/tokenizer_speed

# As `make benchmark` builds; needs run/quickstart for the shared prefix.
benchmark-check:
	@launch/setup --test
	@launch/build release -DGRAPHLORA_TESTS=ON
	@benchmarks/regression_check

peers:
	@launch/setup --test
	@launch/build release
	@benchmarks/peers

docs: build
	@build/release/graphlora options --markdown > docs/configuration.md.tmp
	@mv docs/configuration.md.tmp docs/configuration.md

format:
	@git ls-files '*.cpp' '*.hpp' '*.cu' | PATH="$$PWD/.venv/bin:$$PATH" xargs clang-format -i

lint:
	@tests/lint/run

install: build
	@cmake --install build/release $(if $(PREFIX),--prefix $(PREFIX))

clean:
	rm -rf build
