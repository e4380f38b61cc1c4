"""Ask the shop as ada for an article that is not there."""

import grpc

with grpc.insecure_channel("127.0.0.1:50051") as channel:
    try:
        print(channel.unary_unary("/Shop/Price")(b"7", metadata=[("x-user", "ada")]))
    except grpc.RpcError as error:
        print("the shop answers", error.code())
