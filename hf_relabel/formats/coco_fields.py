"""Field names of a release in COCO JSON, for export and import.

A category's id is its class index + 1, because COCO's ids start at 1. Fields in addition to COCO's own:

    info.hf_relabel   version, name, split, provenance and schema_version of the release
    images[]          original_category_id, category_ids and scores: the image's labels, highest score first;
                      label_score, if it was measured
    annotations[]     region_id, score, top_category_ids, top_scores; label_probability, if the image has the label;
                      generator, if it is known
    excluded[]        image_id and reason of each excluded image
"""

FIRST_CATEGORY_ID = 1

RELEASE = "hf_relabel"
ORIGINAL = "original_category_id"
LABELS = "category_ids"
TOP_LABELS = "top_category_ids"
EXCLUDED = "excluded"
PROBABILITY = "label_probability"
SUPERCATEGORY = "object"
