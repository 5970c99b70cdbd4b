import NIOCore

extension AdaptiveRecvByteBufferAllocator {
  /// Sizes of read buffers: requests and responses are short, and the allocator keeps short buffers ready.
  static let forMessages = AdaptiveRecvByteBufferAllocator(minimum: 512, initial: 512, maximum: 64 << 10)
}
