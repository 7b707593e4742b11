"""Each formula written again, from its paper, exactly enough to judge the last bits of the library's."""
