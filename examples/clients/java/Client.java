// Cuts out what a phrase names: java Client SERVER PICTURE PHRASE
import com.cutout.v1.Image;
import com.cutout.v1.MaskFormat;
import com.cutout.v1.SegmentByTextRequest;
import com.cutout.v1.SegmentationOptions;
import com.cutout.v1.SegmentationServiceGrpc;
import com.cutout.v1.SegmentedObject;
import com.google.protobuf.ByteString;
import io.grpc.ManagedChannel;
import io.grpc.ManagedChannelBuilder;
import io.grpc.StatusRuntimeException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.List;
import java.util.concurrent.TimeUnit;

class Client {
  public static void main(String[] args) throws Exception {
    String server = args[0], picture = args[1], phrase = args[2];
    SegmentByTextRequest request =
        SegmentByTextRequest.newBuilder()
            .setImage(Image.newBuilder().setContent(ByteString.copyFrom(Files.readAllBytes(Path.of(picture)))))
            .addPhrases(phrase)
            .setOptions(SegmentationOptions.newBuilder().addMaskFormats(MaskFormat.MASK_FORMAT_PNG))
            .build();

    ManagedChannel channel = ManagedChannelBuilder.forTarget(server).usePlaintext().build();
    try {
      List<SegmentedObject> objects =
          SegmentationServiceGrpc.newBlockingStub(channel)
              .withDeadlineAfter(1, TimeUnit.MINUTES)
              .segmentByText(request)
              .getSegmentation()
              .getObjectsList();
      for (int i = 0; i < objects.size(); i++) {
        SegmentedObject object = objects.get(i);
        System.out.printf("%s: %d pixels, mask-%d.png%n", object.getLabel(), object.getArea(), i);
        Files.write(Path.of("mask-" + i + ".png"), object.getMasks(0).getPng().toByteArray());
      }
    } catch (StatusRuntimeException error) {
      System.err.println(error.getMessage()); // with its code; io.grpc.protobuf.StatusProto has the details
      System.exit(1);
    } finally {
      channel.shutdownNow();
    }
  }
}
