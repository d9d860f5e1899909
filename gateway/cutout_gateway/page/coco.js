/** COCO's object detection format, as the Python client writes it. */

import { shapeOf } from "./board.js";

const UNLABELLED = "object"; // COCO has no annotation without a category

/** A dataset of one picture; an annotation's id is its object's number in the label map. */
export function coco(picture, objects) {
  const categories = [...new Set(objects.map(({ label }) => label || UNLABELLED))];
  return {
    images: [{ id: 1, file_name: picture.name, width: picture.width, height: picture.height }],
    annotations: objects.map((object, i) => {
      const { rle, box, area, score } = shapeOf(object);
      return {
        id: i + 1,
        image_id: 1,
        category_id: categories.indexOf(object.label || UNLABELLED) + 1,
        segmentation: rle,
        bbox: [box.xMin, box.yMin, box.xMax - box.xMin, box.yMax - box.yMin],
        area,
        iscrowd: 0,
        score,
      };
    }),
    categories: categories.map((name, i) => ({ id: i + 1, name })),
  };
}
