"""Tools that developers run to make model packages; nothing at run time imports them."""
