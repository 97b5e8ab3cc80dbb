"""The customs office: foreign checkpoint formats, one file a format, in and out, and Hub folders made of them."""
