// Cuts out what a phrase names: ./client SERVER PICTURE PHRASE
package main

import (
	"context"
	"fmt"
	"log"
	"os"
	"time"

	"google.golang.org/grpc"

	cutoutv1 "cutout/v1"
)

func main() {
	server, picture, phrase := os.Args[1], os.Args[2], os.Args[3]
	content, err := os.ReadFile(picture)
	if err != nil {
		log.Fatal(err)
	}
	connection, err := grpc.Dial(server, grpc.WithInsecure())
	if err != nil {
		log.Fatal(err)
	}
	defer connection.Close()
	client := cutoutv1.NewSegmentationServiceClient(connection)

	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	answer, err := client.SegmentByText(ctx, &cutoutv1.SegmentByTextRequest{
		Image:   &cutoutv1.Image{Source: &cutoutv1.Image_Content{Content: content}},
		Phrases: []string{phrase},
		Options: &cutoutv1.SegmentationOptions{
			MaskFormats: []cutoutv1.MaskFormat{cutoutv1.MaskFormat_MASK_FORMAT_PNG},
		},
	})
	if err != nil {
		log.Fatal(err) // with its code; status.FromError(err) has the details
	}
	for i, object := range answer.Segmentation.Objects {
		name := fmt.Sprintf("mask-%d.png", i)
		fmt.Printf("%s: %d pixels, %s\n", object.Label, object.Area, name)
		if err := os.WriteFile(name, object.Masks[0].GetPng(), 0o644); err != nil {
			log.Fatal(err)
		}
	}
}
