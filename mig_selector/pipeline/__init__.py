"""The recipe that joins the rooms.

Read it in this order::

recipe      what rank 0 does from settings to a registered subset, on one page
request     all that is known before a row is read: what the method needs (`needs`), files and models, fingerprint
stages      one function a stage: read, measure, restrict, label, finish_scores, link, embed, choose
rows        the kept rows read again as texts, for models and for methods that read them
crew        how all ranks run a model together while rank 0 runs the recipe
write       chosen rows to the files of a subset's folder
tokens      how many tokens they have, from a sample
evaluation  chosen rows that are in eval_dataset too
deliver     a finished subset to dataset_info.json, to training, and to other nodes (`site`)
names       names of new entries and files, made from those of pools
comparison  several methods side by side, through the same stages
"""
