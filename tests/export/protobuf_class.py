"""Classes of protobuf messages, made by Google's library from names, numbers and types."""

from google.protobuf.descriptor_pb2 import FieldDescriptorProto, FileDescriptorProto
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message_factory import GetMessageClass


def message_class(fields, enum=("ZERO",)):
    """A class of messages with `fields` {name: (number, type)}; values of type enum are those of `enum`."""
    file = FileDescriptorProto(name="m.proto", package="test", syntax="proto3")
    message = file.message_type.add(name="Message")
    values = message.enum_type.add(name="Enum")
    for number, name in enumerate(enum):
        values.value.add(name=name, number=number)
    for name, (number, kind) in fields.items():
        repeated, _, base = kind.rpartition(" ")
        field = message.field.add(name=name, number=number, type=getattr(FieldDescriptorProto, f"TYPE_{base.upper()}"))
        field.label = FieldDescriptorProto.LABEL_REPEATED if repeated else FieldDescriptorProto.LABEL_OPTIONAL
        if base == "enum":
            field.type_name = ".test.Message.Enum"
    pool = DescriptorPool()
    pool.Add(file)
    return GetMessageClass(pool.FindMessageTypeByName("test.Message"))
