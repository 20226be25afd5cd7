"""The one reader and writer of people's images, and images as files and bytes."""
