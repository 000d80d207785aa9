"""Mutations of ONNX models, for the fuzzer of files: value by value, as protobuf has them."""

import copy

NUMBERS = [-(2**63), -(2**31), -1, 0, 1, 2, 3, 7, 2**20, 2**31 - 1, 2**31, 2**40, 2**62]
FLOATS = [0.0, -0.0, -1.0, 0.01, 0.5, 1e-30, 1e30, 3e38, float("nan"), float("inf")]
OPERATORS = ["Add", "Mul", "Max", "Concat", "MatMul", "Gemm", "Conv", "MaxPool", "Relu", "Erf", "Softmax", "Transpose"]
OPERATORS += [
    "Reshape",
    "Flatten",
    "Squeeze",
    "Unsqueeze",
    "Shape",
    "Gather",
    "Cast",
    "Identity",
    "Dropout",
    "Loop",
    "",
]


def mutated(rng, content):
    """Another model, of the bytes of one; an exception where these are none."""
    import onnx

    model = onnx.ModelProto.FromString(content)
    for _ in range(rng.choice([1, 1, 2, 4])):
        rng.choice([change_node, change_node, change_attribute, change_tensor, change_ends])(rng, model.graph)
    if rng.random() < 0.05:
        model.opset_import[0].version = rng.choice(NUMBERS)
    return model.SerializeToString()


def change_node(rng, graph):
    """A node reads, computes or writes something else, comes twice, or is gone."""
    nodes, i = list(graph.node), rng.randrange(len(graph.node))
    names = [name for other in nodes for name in (*other.input, *other.output)]
    what = rng.randrange(6)
    if what == 0:
        nodes[i].op_type = rng.choice(OPERATORS)
    elif what == 1 and nodes[i].input:
        nodes[i].input[rng.randrange(len(nodes[i].input))] = rng.choice([*names, "", "nobody"])
    elif what == 2:
        nodes[i].input.extend(rng.choices(names, k=rng.choice([1, 2, 100])))
    elif what == 3:
        nodes[i].output[0] = rng.choice(names)
    elif what == 4:
        del graph.node[i]
    else:
        graph.node.insert(rng.randrange(len(nodes)), copy.deepcopy(nodes[i]))


def change_attribute(rng, graph):
    """An attribute gets another value, type or name, or is gone."""
    found = [(node, attribute) for node in graph.node for attribute in node.attribute]
    node, attribute = rng.choice(found)
    what = rng.randrange(5)
    if what == 0 and attribute.ints:
        attribute.ints[rng.randrange(len(attribute.ints))] = rng.choice(NUMBERS)
    elif what == 1:
        attribute.i, attribute.f = rng.choice(NUMBERS), rng.choice(FLOATS)
    elif what == 2:
        attribute.type = rng.randrange(15)
    elif what == 3:
        attribute.name = rng.choice([other.name for _, other in found])
    elif what == 4:
        attribute.ints.extend(rng.choices(NUMBERS, k=rng.choice([1, 4, 1000])))
    if rng.random() < 0.1:
        node.attribute.remove(attribute)


def change_tensor(rng, graph):
    """An initializer gets another shape, type, content or place, comes twice, or is gone."""
    tensors = list(graph.initializer)
    tensor = rng.choice(tensors)
    what = rng.randrange(6)
    if what == 0:
        tensor.dims[:] = rng.choices(NUMBERS, k=rng.choice([0, 1, 2, 4, 100]))
    elif what == 1:
        tensor.data_type = rng.randrange(-1, 25)
    elif what == 2:
        tensor.raw_data = bytes(rng.choices(range(256), k=rng.choice([0, 4, len(tensor.raw_data)])))
    elif what == 3:
        tensor.data_location = 1
        for key in ("location", "offset", "length"):
            tensor.external_data.add(
                key=key, value=rng.choice(["", ".", "..", "/dev/zero", "file.safetensors", "8", "-1"])
            )
    elif what == 4:
        graph.initializer.append(tensor)
    else:
        graph.initializer.remove(tensor)


def change_ends(rng, graph):
    """The input or the output gets other sizes, another name or type."""
    end = rng.choice([graph.input[0], graph.output[0]])
    dims, what = end.type.tensor_type.shape.dim, rng.randrange(4)
    if what == 0:
        rng.choice(list(dims)).dim_value = rng.choice(NUMBERS)
    elif what == 1:
        dims.add().dim_value = rng.choice(NUMBERS)
    elif what == 2:
        end.type.tensor_type.elem_type = rng.randrange(25)
    else:
        end.name = rng.choice([name for node in graph.node for name in (*node.input, *node.output)])
