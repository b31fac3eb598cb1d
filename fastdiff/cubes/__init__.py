"""CPM difference imaging of cubes of epochs."""
