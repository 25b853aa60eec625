"""Closed-form classifiers of image features, and how they are combined with the text classifier.

They are fitted to cached features in a fraction of a second, without a search and without gradients. `closed_form` fits
them, `ensemble` chooses the weight of each classifier in the sum, and `head` joins one with a tuned prompt.
"""
