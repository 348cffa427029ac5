"""Records out of files: where they are (`files`), how they stand in them (`lines`, `parquet`, `tar`), what they mean (`columns`), and
whether they may be documents (`checks`). Every format gives the same two things, for imports and for `ret2 load`:

    spans(opened, cut)             the parts of a file that can be read by themselves, with how many records each has
    records(opened, span, wanted)  the records of one part, in order, one at a time
"""
