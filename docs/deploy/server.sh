#!/usr/bin/env bash
# The MLflow server over that database, artifacts in FOLDER/artifacts: docs/deploy/server.sh FOLDER [PORT]
# It answers this machine alone; see docs/deploy.md before you let others in.
set -euo pipefail
folder=$(cd "${1:?usage: docs/deploy/server.sh FOLDER [PORT]}" && pwd)
exec mlflow server \
    --backend-store-uri "postgresql+psycopg://harness@/mlflow?host=$folder/database" \
    --artifacts-destination "$folder/artifacts" \
    --host 127.0.0.1 --port "${2:-5000}"
