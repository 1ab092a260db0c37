"""Ways to multiply by a form. The reference path is the definition; every other is held against it."""
