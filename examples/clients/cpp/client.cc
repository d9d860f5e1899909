// Cuts out what a phrase names: ./client SERVER PICTURE PHRASE
#include <chrono>
#include <fstream>
#include <iostream>
#include <iterator>
#include <string>

#include <grpcpp/grpcpp.h>

#include "cutout/v1/segmentation_service.grpc.pb.h"

int main(int, char** argv) {
  const std::string server = argv[1], picture = argv[2], phrase = argv[3];
  std::ifstream file(picture, std::ios::binary);

  cutout::v1::SegmentByTextRequest request;
  request.mutable_image()->set_content(std::string(std::istreambuf_iterator<char>(file), {}));
  request.add_phrases(phrase);
  request.mutable_options()->add_mask_formats(cutout::v1::MASK_FORMAT_PNG);

  auto channel = grpc::CreateChannel(server, grpc::InsecureChannelCredentials());
  auto client = cutout::v1::SegmentationService::NewStub(channel);
  grpc::ClientContext context;
  context.set_deadline(std::chrono::system_clock::now() + std::chrono::minutes(1));
  cutout::v1::SegmentByTextResponse answer;
  const grpc::Status status = client->SegmentByText(&context, request, &answer);
  if (!status.ok()) {
    std::cerr << status.error_code() << ": " << status.error_message() << "\n";
    return 1;
  }
  for (int i = 0; i < answer.segmentation().objects_size(); ++i) {
    const auto& object = answer.segmentation().objects(i);
    const std::string name = "mask-" + std::to_string(i) + ".png";
    std::cout << object.label() << ": " << object.area() << " pixels, " << name << "\n";
    std::ofstream(name, std::ios::binary) << object.masks(0).png();
  }
}
