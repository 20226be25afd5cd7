"""What a scene is in words, and how painted or imported images are kept."""
