#!/usr/bin/env bash
# A PostgreSQL of its own in FOLDER, made where there is none yet, and started: docs/deploy/database.sh FOLDER [stop]
# It listens on a socket in FOLDER/database, which only the user who starts it can open, and on no network.
set -euo pipefail
umask 077
mkdir -p "${1:?usage: docs/deploy/database.sh FOLDER [stop]}"
folder=$(cd "$1" && pwd)
newest=$(find /usr/lib/postgresql -maxdepth 2 -name bin 2>/dev/null | sort -V | tail -1)
PATH="${newest:-/usr/local/pgsql/bin}:$PATH"
if [ "${2:-}" = stop ]; then
    exec pg_ctl --pgdata "$folder/database" --wait --mode fast stop
fi
if [ ! -f "$folder/database/PG_VERSION" ]; then
    initdb --pgdata "$folder/database" --username harness --auth trust --encoding UTF8 >/dev/null
fi
pg_ctl --pgdata "$folder/database" status >/dev/null ||
    pg_ctl --pgdata "$folder/database" --log "$folder/database.log" --wait \
        --options "-k $folder/database -h ''" start
createdb --host "$folder/database" --username harness mlflow 2>/dev/null || echo "mlflow is there already"
