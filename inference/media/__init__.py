"""What an edit is made in: an image, an animation or a video, each read, edited and written in its own way."""
