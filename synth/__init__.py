"""What a scene is, who paints it and how it is kept."""
