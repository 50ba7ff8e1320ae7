"""A head that learns ten kinds of clothes from what a frozen backbone sees of them."""
