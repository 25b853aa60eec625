"""Closed-form classifiers of image features, and how they are combined with the text classifier.

They are fitted in a fraction of a second from cached features, without a search and without gradients.
"""
