#!/bin/sh
# npm test: set-up with what tests need, then all checks and tests. `sh test/run.sh [--long] [TEST FILE…]`
set -u
cd "$(dirname "$0")/.." || exit 1
if ! sh deploy/setup.sh --tests; then
  echo "set-up failed"
  echo "0 passed, 1 failed"
  exit 1
fi
exec bin/node --conditions=headgate-source test/run.ts "$@"
