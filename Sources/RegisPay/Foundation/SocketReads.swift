import NIOCore

extension AdaptiveRecvByteBufferAllocator {
  /// Sizes of read buffers for responses of calls out: most are short, and a long one fills few buffers. Each connection keeps up to
  /// four of its buffers, whatever their size, until it closes.
  static let forMessages = AdaptiveRecvByteBufferAllocator(minimum: 512, initial: 512, maximum: 64 << 10)

  /// Sizes of read buffers for requests. Clients may open thousands of connections and leave them idle, so what a connection keeps is
  /// small; a request seldom has more than 4 KiB.
  static let forRequests = AdaptiveRecvByteBufferAllocator(minimum: 512, initial: 512, maximum: 4 << 10)
}
