#!/usr/bin/env bash
# Start a Citus coordinator and two workers on loopback, of what build.sh has built in DIRECTORY:
#   deploy/citus/cluster.sh DIRECTORY [PORT]
# They listen at PORT (9701 unless given) and the two after it. Nodes that run already are left alone, so the same
# command starts again one that was stopped. Then (the tests need a superuser):
#   TCC_TEST_SERVER_URL=postgresql://postgres@127.0.0.1:9701/postgres pytest tests/log tests/engine tests/jobs
# deploy/citus/cluster.sh DIRECTORY stop ends all, and removes their data.
set -euo pipefail
directory=$(realpath "$1") port=${2:-9701}
bin=$directory/wheel/postgres/bin
# PostgreSQL does not run as root.
as_user=()
if [ "$(id -u)" = 0 ]; then
    as_user=(setpriv --reuid=65534 --regid=65534 --clear-groups)
fi
cd "$directory"

if [ "$port" = stop ]; then
    for data in node-*; do
        "${as_user[@]}" "$bin/pg_ctl" -D "$data/data" -m immediate stop || true
    done
    rm -rf node-*
    exit
fi

is_new=no
for node in 0 1 2; do
    data=node-$node/data
    if [ ! -d "node-$node" ]; then
        is_new=yes
        mkdir "node-$node"
        [ ${#as_user[@]} = 0 ] || chown 65534:65534 "node-$node"
        "${as_user[@]}" "$bin/initdb" -D "$data" -U postgres -A trust -E UTF8 >/dev/null
        cat >>"$data/postgresql.conf" <<CONF
shared_preload_libraries = 'citus'
citus.enable_schema_based_sharding = on
# For moving shards online.
wal_level = logical
# Each database of the tests has a worker process of Citus.
max_worker_processes = 100
max_connections = 300
listen_addresses = '127.0.0.1'
port = $((port + node))
unix_socket_directories = ''
CONF
    fi
    "${as_user[@]}" "$bin/pg_ctl" -D "$data" status >/dev/null ||
        "${as_user[@]}" "$bin/pg_ctl" -D "$data" -l "node-$node/server.log" -w start >/dev/null 2>&1
done

url=postgresql://postgres@127.0.0.1:$port/postgres
if [ $is_new = yes ]; then
    for node in 0 1 2; do
        "$bin/psql" -Atq "postgresql://postgres@127.0.0.1:$((port + node))/postgres" -c "CREATE EXTENSION citus"
    done
    "$bin/psql" -Atq "$url" -c "SELECT citus_set_coordinator_host('127.0.0.1', $port)" \
        -c "SELECT citus_add_node('127.0.0.1', $((port + 1)))" -c "SELECT citus_add_node('127.0.0.1', $((port + 2)))"
fi
"$bin/psql" -At "$url" -c "SELECT citus_version()" -c "SELECT nodename, nodeport, groupid FROM pg_dist_node ORDER BY 2"
echo "ready: $url"
