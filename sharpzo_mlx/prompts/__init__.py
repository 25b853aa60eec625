"""Class names become class features: a template is tokenised, and a context of vectors replaces its first words.

`tokens` splits the template, `space` maps the searched vector w to a context, `text_features` chooses the computation
that turns many contexts into class features at once, and `prompt` is the record of a tuned prompt.
"""
