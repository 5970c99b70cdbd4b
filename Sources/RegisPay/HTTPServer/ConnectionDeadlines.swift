import NIOCore

/// The deadlines of one connection, with a single timer for both. Used on the connection's event loop only.
///
/// A timer stays when its deadline is met or removed, and is set again only for an earlier one: most deadlines are met.
struct ConnectionDeadlines {
  enum Expired { case input, output }

  /// When the client must have sent what the server waits for.
  private(set) var input: NIODeadline?
  /// When the client must have read what the server has sent.
  private(set) var output: NIODeadline?
  private var timer: (task: Scheduled<Void>, time: NIODeadline)?

  mutating func removeInput() { input = nil }
  mutating func removeOutput() { output = nil }

  /// - Parameter onTimer: called on the loop when the timer fires; it calls ``timerFired(on:onTimer:)``.
  mutating func setInput(_ time: TimeAmount, on loop: any EventLoop, onTimer: @escaping () -> Void) {
    input = loop.now + time
    setTimer(on: loop, onTimer: onTimer)
  }

  mutating func setOutput(_ time: TimeAmount, on loop: any EventLoop, onTimer: @escaping () -> Void) {
    output = loop.now + time
    setTimer(on: loop, onTimer: onTimer)
  }

  /// - Returns: the deadline that has passed; nil when the timer was set for another one, which it is then set for.
  mutating func timerFired(on loop: any EventLoop, onTimer: @escaping () -> Void) -> Expired? {
    timer = nil
    if let output, output <= loop.now { return .output }
    if let input, input <= loop.now {
      self.input = nil
      return .input
    }
    setTimer(on: loop, onTimer: onTimer)
    return nil
  }

  /// Removes both deadlines and the timer.
  mutating func cancel() {
    timer?.task.cancel()
    timer = nil
    input = nil
    output = nil
  }

  private mutating func setTimer(on loop: any EventLoop, onTimer: @escaping () -> Void) {
    guard let time = [input, output].compactMap({ $0 }).min() else { return }
    if let timer {
      guard time < timer.time else { return }
      timer.task.cancel()
    }
    timer = (loop.assumeIsolated().scheduleTask(deadline: time, onTimer), time)
  }
}
