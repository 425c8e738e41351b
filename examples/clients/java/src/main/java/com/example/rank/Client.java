package com.example.rank;

import com.google.gson.JsonArray;
import com.google.gson.JsonElement;
import com.google.gson.JsonObject;
import com.google.gson.JsonParser;
import com.google.protobuf.ByteString;
import io.grpc.CallOptions;
import io.grpc.Grpc;
import io.grpc.InsecureChannelCredentials;
import io.grpc.ManagedChannel;
import io.grpc.MethodDescriptor;
import io.grpc.protobuf.ProtoUtils;
import io.grpc.stub.ClientCalls;
import java.io.IOException;
import java.nio.ByteBuffer;
import java.nio.ByteOrder;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.Comparator;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.concurrent.TimeUnit;
import java.util.stream.IntStream;
import org.tensorflow.framework.DataType;
import org.tensorflow.framework.TensorProto;
import org.tensorflow.framework.TensorShapeProto;
import tensorflow.serving.Model.ModelSpec;
import tensorflow.serving.Predict.PredictRequest;
import tensorflow.serving.Predict.PredictResponse;

/**
 * Asks a model server for scores, with messages of TensorFlow Serving's public protos; pom.xml says how it is run.
 *
 * <p>Arguments, as name=value: request, address, model, label, output, deadline_ms.
 */
public final class Client {
  private static final MethodDescriptor<PredictRequest, PredictResponse> PREDICT =
      MethodDescriptor.<PredictRequest, PredictResponse>newBuilder()
          .setType(MethodDescriptor.MethodType.UNARY)
          .setFullMethodName("tensorflow.serving.PredictionService/Predict")
          .setRequestMarshaller(ProtoUtils.marshaller(PredictRequest.getDefaultInstance()))
          .setResponseMarshaller(ProtoUtils.marshaller(PredictResponse.getDefaultInstance()))
          .build();

  /** Retries of UNAVAILABLE, not of RESOURCE_EXHAUSTED (the server has too much to do), and few when much fails. */
  private static final Map<String, Object> SERVICE_CONFIG =
      Map.of(
          "methodConfig",
          List.of(
              Map.of(
                  "name", List.of(Map.of("service", "tensorflow.serving.PredictionService")),
                  "retryPolicy",
                      Map.of(
                          "maxAttempts", 3.0,
                          "initialBackoff", "0.02s",
                          "maxBackoff", "0.5s",
                          "backoffMultiplier", 2.0,
                          "retryableStatusCodes", List.of("UNAVAILABLE")))),
          "retryThrottling",
          Map.of("maxTokens", 10.0, "tokenRatio", 0.1));

  private Client() {}

  public static void main(String[] arguments) throws IOException, InterruptedException {
    Map<String, String> options = new HashMap<>();
    for (String argument : arguments) {
      String[] parts = argument.split("=", 2);
      options.put(parts[0], parts.length > 1 ? parts[1] : "");
    }
    String address = options.getOrDefault("address", "127.0.0.1:8500");
    String content = Files.readString(Path.of(options.getOrDefault("request", "build/request.json")));
    JsonObject body = JsonParser.parseString(content).getAsJsonObject();

    ModelSpec.Builder model = ModelSpec.newBuilder().setName(options.getOrDefault("model", "live_ranker"));
    model.setSignatureName(body.has("signature_name") ? body.get("signature_name").getAsString() : "serving_default");
    if (options.containsKey("label")) {
      model.setVersionLabel(options.get("label"));
    }
    PredictRequest.Builder request = PredictRequest.newBuilder().setModelSpec(model);
    body.getAsJsonObject("inputs").asMap().forEach((name, column) -> request.putInputs(name, tensor(column)));

    ManagedChannel channel =
        Grpc.newChannelBuilder(address, InsecureChannelCredentials.create())
            .defaultServiceConfig(SERVICE_CONFIG)
            .enableRetry()
            .build();
    try {
      long deadline = Long.parseLong(options.getOrDefault("deadline_ms", "500"));
      CallOptions call = CallOptions.DEFAULT.withDeadlineAfter(deadline, TimeUnit.MILLISECONDS);
      PredictResponse answer = ClientCalls.blockingUnaryCall(channel, PREDICT, call, request.build());
      float[] scores = floats(answer.getOutputsOrThrow(options.getOrDefault("output", "ctr")));
      System.out.println("version " + answer.getModelSpec().getVersion().getValue());
      IntStream.range(0, scores.length)
          .boxed()
          .sorted(Comparator.comparingDouble((Integer row) -> -scores[row]))
          .limit(5)
          .forEach(row -> System.out.printf("%d %.6f%n", row, scores[row]));
    } finally {
      channel.shutdownNow().awaitTermination(1, TimeUnit.SECONDS);
    }
  }

  /** A column of rows as tensor_content: a thousand times cheaper than repeated values. */
  private static TensorProto tensor(JsonElement column) {
    TensorShapeProto.Builder shape = TensorShapeProto.newBuilder();
    JsonElement level = column;
    while (level.isJsonArray()) {
      JsonArray rows = level.getAsJsonArray();
      shape.addDim(TensorShapeProto.Dim.newBuilder().setSize(rows.size()));
      if (rows.isEmpty()) {
        break;
      }
      level = rows.get(0);
    }
    List<String> numbers = new ArrayList<>();
    flatten(column, numbers);
    boolean isFloat = !numbers.isEmpty() && numbers.get(0).matches(".*[.eE].*");
    ByteBuffer content = ByteBuffer.allocate(numbers.size() * (isFloat ? 4 : 8)).order(ByteOrder.LITTLE_ENDIAN);
    for (String number : numbers) {
      if (isFloat) {
        content.putFloat(Float.parseFloat(number));
      } else {
        content.putLong(Long.parseLong(number)); // ids are 64 bits wide
      }
    }
    return TensorProto.newBuilder()
        .setDtype(isFloat ? DataType.DT_FLOAT : DataType.DT_INT64)
        .setTensorShape(shape)
        .setTensorContent(ByteString.copyFrom(content.flip()))
        .build();
  }

  private static void flatten(JsonElement value, List<String> numbers) {
    if (value.isJsonArray()) {
      value.getAsJsonArray().forEach(row -> flatten(row, numbers));
    } else {
      numbers.add(value.getAsString());
    }
  }

  /** The values of an answer, which come in one of two forms. */
  private static float[] floats(TensorProto proto) {
    ByteBuffer content = proto.getTensorContent().asReadOnlyByteBuffer().order(ByteOrder.LITTLE_ENDIAN);
    float[] values = new float[content.hasRemaining() ? content.remaining() / 4 : proto.getFloatValCount()];
    for (int i = 0; i < values.length; i++) {
      values[i] = content.hasRemaining() ? content.getFloat() : proto.getFloatVal(i);
    }
    return values;
  }
}
