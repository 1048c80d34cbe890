"""Read pools, and write subsets of them.

A room imports only from the rooms below it::

    subset/            chosen rows -> the files that the trainer reads
    reading.py         entries -> a Pool: labels, scores and offsets of the kept rows
    diagnosis.py       rows none of which can be used -> the setting that may be right
    index/             one pass over the rows of a file: what selection needs of each, kept in the cache
    formats/           a file -> its rows; one RowSource for each format
    conversation.py    a row -> who said what, question and answer, the text for a model
    training.py        a row -> prompt and replies as the host reads them, and whether it trains on them
    leaves/            the values at the wanted paths of many rows and the shapes of the rows, as arrays
    entry.py           a dataset_info.json entry after the host's defaults were filled in
"""
