#!/usr/bin/env bash
# Asks a model server for scores over REST: the answer is {"outputs": {"ctr": [...], ...}}.
#   examples/clients/curl/predict.sh build/request.json 127.0.0.1:8501 live_ranker
# A version: .../models/NAME/versions/7:predict, a label: .../models/NAME/labels/stable:predict
set -euo pipefail
request=${1:-build/request.json} address=${2:-127.0.0.1:8501} model=${3:-live_ranker}
curl --fail-with-body --silent --show-error --max-time 2 --data "@$request" "http://$address/v1/models/$model:predict"
