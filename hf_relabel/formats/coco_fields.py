"""How a release is laid out as COCO JSON, for the export and the import of it.

A category's id is its class index + 1, as COCO's ids start at 1, and every class in the file is given by that id.
Beside COCO's own fields:

    info.hf_relabel   version, name, split, provenance and schema_version of the release
    images[]          original_category_id, category_ids and scores: the image's labels, highest score first
    annotations[]     region_id, score, top_category_ids, top_scores
    excluded[]        image_id and reason of every image that was left out
"""

FIRST_CATEGORY_ID = 1

RELEASE = "hf_relabel"
ORIGINAL = "original_category_id"
LABELS = "category_ids"
TOP_LABELS = "top_category_ids"
EXCLUDED = "excluded"
