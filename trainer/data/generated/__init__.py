"""Generated product pictures: products drawn from a seed, and the scenes they stand in."""
