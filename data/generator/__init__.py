"""The generator of the sample capture: a small ray tracer over shapes and textures made by formulas."""
