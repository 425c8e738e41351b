#!/usr/bin/env bash
# Generates the Go stubs of the public protos below build/. Needs Go, Python with
# tensorflow-serving-api, and protoc: apt-get install protobuf-compiler, or PROTOC=/path/to/protoc.
#   examples/clients/go/generate.sh && cd examples/clients/go && go run . -request ../../../build/request.json
set -euo pipefail
cd "$(dirname "$0")"
mkdir -p build
"${PYTHON:-python}" ../descriptors.py build/tensorflow_serving.desc | grep ^tensorflow > build/files
go build -o build/protoc-gen-go google.golang.org/protobuf/cmd/protoc-gen-go # of go.mod's version
options=(--go_out=. --go_opt=module=example.com/rank)
while read -r file; do
  package=framework
  [[ $file == tensorflow_serving/* ]] && package=serving
  options+=("--go_opt=M$file=example.com/rank/build/$package;$package")
done < build/files
mapfile -t files < build/files
"${PROTOC:-protoc}" --plugin=build/protoc-gen-go --descriptor_set_in=build/tensorflow_serving.desc "${options[@]}" "${files[@]}"
