"""Files through a model: images, animations and videos, each read, edited and written in its own way."""
