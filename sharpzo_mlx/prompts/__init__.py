"""Class names become class features: a template is tokenised, a context of vectors is put before each class name.

`tokens` splits the template, `space` maps the searched vector w to a context, `text_features` computes the class
features of many contexts at once, and `prompt` is the record of a tuned prompt.
"""
