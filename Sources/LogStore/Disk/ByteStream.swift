import Glibc

/// A sequential stream of bytes: a pipe, or a file from its start.
protocol ByteStream: AnyObject {
  /// The stream's name in messages.
  var path: String { get }
  /// Reads until the buffer is full or the stream ends. Returns the number of bytes read.
  func read(into buffer: UnsafeMutableRawBufferPointer) throws(LogStoreError) -> Int
  /// Writes all bytes. After a failure an unknown part is written.
  func write(_ bytes: UnsafeRawBufferPointer) throws(LogStoreError)
}

extension ByteStream {
  func write(_ bytes: [UInt8]) throws(LogStoreError) {
    let result = bytes.withUnsafeBytes { buffer in
      Result { () throws(LogStoreError) in try self.write(buffer) }
    }
    try result.get()
  }

  /// Up to `count` bytes; fewer where the stream ends.
  func read(count: Int) throws(LogStoreError) -> [UInt8] {
    var bytes = [UInt8](repeating: 0, count: count)
    let result = bytes.withUnsafeMutableBytes { buffer in
      Result { () throws(LogStoreError) in try self.read(into: buffer) }
    }
    bytes.removeLast(count - (try result.get()))
    return bytes
  }
}

/// A file, read or written in order from its start.
final class FileStream: ByteStream {
  let file: any File
  private var position: UInt64 = 0

  var path: String { file.path }

  init(_ file: any File) {
    self.file = file
  }

  func read(into buffer: UnsafeMutableRawBufferPointer) throws(LogStoreError) -> Int {
    let count = try file.read(into: buffer, at: position)
    position += UInt64(count)
    return count
  }

  func write(_ bytes: UnsafeRawBufferPointer) throws(LogStoreError) {
    try file.write(bytes, at: position)
    position += UInt64(bytes.count)
  }
}

/// An open descriptor, which need not be a file: a pipe, for example. The caller owns and closes it.
final class DescriptorStream: ByteStream {
  private let descriptor: Int32
  let path: String

  init(_ descriptor: Int32, name: String) {
    self.descriptor = descriptor
    path = name
  }

  func read(into buffer: UnsafeMutableRawBufferPointer) throws(LogStoreError) -> Int {
    var done = 0
    while done < buffer.count {
      let count = Glibc.read(descriptor, buffer.baseAddress.map { $0 + done }, buffer.count - done)
      if count == 0 { break }
      if count > 0 { done += count } else { try waitOrThrow("read", for: Int16(POLLIN)) }
    }
    return done
  }

  func write(_ bytes: UnsafeRawBufferPointer) throws(LogStoreError) {
    var done = 0
    while done < bytes.count {
      let count = Glibc.write(descriptor, bytes.baseAddress.map { $0 + done }, bytes.count - done)
      if count >= 0 { done += count } else { try waitOrThrow("write", for: Int16(POLLOUT)) }
    }
  }

  private func waitOrThrow(_ operation: String, for events: Int16) throws(LogStoreError) {
    let code = errno
    if code == EAGAIN {
      // Another process has made the pipe non-blocking for all that share it.
      var waiting = pollfd(fd: descriptor, events: events, revents: 0)
      poll(&waiting, 1, -1)
    } else if code != EINTR {
      throw failure(operation, path, code)
    }
  }
}
