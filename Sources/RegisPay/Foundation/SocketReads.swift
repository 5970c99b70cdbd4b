import NIOCore

extension AdaptiveRecvByteBufferAllocator {
  /// How much is read at once: requests and answers are short, and the allocator has short buffers at hand.
  static let forMessages = AdaptiveRecvByteBufferAllocator(minimum: 512, initial: 512, maximum: 64 << 10)
}
