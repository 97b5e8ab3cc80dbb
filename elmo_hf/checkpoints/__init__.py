"""The customs office: foreign checkpoint formats, one file per format, in and out, and Hub folders made of them."""
