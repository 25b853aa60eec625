"""Images into folders by their labels: a plan, carried out with a journal, and undone."""
