"""Decide which regions show which class: label maps, teacher-free selection, the labeler and its examples."""
