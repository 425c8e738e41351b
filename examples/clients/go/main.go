// Asks a model server for scores, with stubs of TensorFlow Serving's public protos; generate.sh makes them.
//
//	go run . -request ../../../build/request.json -address 127.0.0.1:8500
package main

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"flag"
	"fmt"
	"log"
	"math"
	"os"
	"sort"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"example.com/rank/build/framework"
	"example.com/rank/build/serving"
)

// Retries of what a server that is gone refused, but not of RESOURCE_EXHAUSTED: it has too much to do. With
// retryThrottling few are made when much fails.
const serviceConfig = `{
  "methodConfig": [{
    "name": [{"service": "tensorflow.serving.PredictionService"}],
    "retryPolicy": {"maxAttempts": 3, "initialBackoff": "0.02s", "maxBackoff": "0.5s", "backoffMultiplier": 2,
                    "retryableStatusCodes": ["UNAVAILABLE"]}
  }],
  "retryThrottling": {"maxTokens": 10, "tokenRatio": 0.1}
}`

// body is that of a REST request: columns of rows, a row for each room.
type body struct {
	Signature string         `json:"signature_name"`
	Inputs    map[string]any `json:"inputs"`
}

// tensor makes a column tensor_content: a thousand times cheaper than repeated values.
func tensor(column any) (*framework.TensorProto, error) {
	shape := &framework.TensorShapeProto{}
	for level := column; ; {
		rows, isList := level.([]any)
		if !isList {
			break
		}
		shape.Dim = append(shape.Dim, &framework.TensorShapeProto_Dim{Size: int64(len(rows))})
		if len(rows) == 0 {
			break
		}
		level = rows[0]
	}
	var numbers []json.Number
	var flatten func(value any) error
	flatten = func(value any) error {
		switch value := value.(type) {
		case []any:
			for _, row := range value {
				if err := flatten(row); err != nil {
					return err
				}
			}
		case json.Number:
			numbers = append(numbers, value)
		default:
			return fmt.Errorf("a tensor holds numbers, got %T", value)
		}
		return nil
	}
	if err := flatten(column); err != nil {
		return nil, err
	}
	var content bytes.Buffer
	dtype := framework.DataType_DT_INT64
	if len(numbers) > 0 && strings.ContainsAny(numbers[0].String(), ".eE") {
		dtype = framework.DataType_DT_FLOAT
	}
	for _, number := range numbers {
		if dtype == framework.DataType_DT_INT64 {
			value, err := number.Int64()
			if err != nil {
				return nil, err
			}
			binary.Write(&content, binary.LittleEndian, value)
		} else {
			value, err := number.Float64()
			if err != nil {
				return nil, err
			}
			binary.Write(&content, binary.LittleEndian, float32(value))
		}
	}
	return &framework.TensorProto{Dtype: dtype, TensorShape: shape, TensorContent: content.Bytes()}, nil
}

// floats reads an answer, which holds values in one of two forms.
func floats(proto *framework.TensorProto) []float32 {
	content := proto.GetTensorContent()
	if len(content) == 0 {
		return proto.GetFloatVal()
	}
	values := make([]float32, len(content)/4)
	for i := range values {
		values[i] = math.Float32frombits(binary.LittleEndian.Uint32(content[4*i:]))
	}
	return values
}

func run() error {
	address := flag.String("address", "127.0.0.1:8500", "host:port of the server's gRPC interface")
	model := flag.String("model", "live_ranker", "name of the model on the server")
	label := flag.String("label", "", "of the version to ask; the newest by default")
	output := flag.String("output", "ctr", "whose scores to print")
	deadline := flag.Duration("deadline", 500*time.Millisecond, "time for the answer, with retries")
	path := flag.String("request", "build/request.json", "body of a REST request")
	flag.Parse()

	content, err := os.ReadFile(*path)
	if err != nil {
		return err
	}
	decoder := json.NewDecoder(bytes.NewReader(content))
	decoder.UseNumber() // ids are 64 bits wide
	asked := body{Signature: "serving_default"}
	if err := decoder.Decode(&asked); err != nil {
		return err
	}
	request := &serving.PredictRequest{
		ModelSpec: &serving.ModelSpec{Name: *model, SignatureName: asked.Signature},
		Inputs:    map[string]*framework.TensorProto{},
	}
	if *label != "" {
		request.ModelSpec.VersionChoice = &serving.ModelSpec_VersionLabel{VersionLabel: *label}
	}
	for name, column := range asked.Inputs {
		if request.Inputs[name], err = tensor(column); err != nil {
			return fmt.Errorf("input %s: %w", name, err)
		}
	}

	connection, err := grpc.NewClient(*address,
		grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithDefaultServiceConfig(serviceConfig))
	if err != nil {
		return err
	}
	defer connection.Close()
	ctx, cancel := context.WithTimeout(context.Background(), *deadline)
	defer cancel()
	answer := &serving.PredictResponse{}
	if err := connection.Invoke(ctx, "/tensorflow.serving.PredictionService/Predict", request, answer); err != nil {
		return err
	}

	scores := floats(answer.GetOutputs()[*output])
	rows := make([]int, len(scores))
	for i := range rows {
		rows[i] = i
	}
	sort.SliceStable(rows, func(a, b int) bool { return scores[rows[a]] > scores[rows[b]] })
	fmt.Printf("version %d\n", answer.GetModelSpec().GetVersion().GetValue())
	for _, row := range rows[:min(5, len(rows))] {
		fmt.Printf("%d %.6f\n", row, scores[row])
	}
	return nil
}

func main() {
	if err := run(); err != nil {
		log.Fatal(err)
	}
}
