import CSanitizer
import Glibc

/// `Fuzz --target=NAME [libFuzzer's options] [corpus or input …]`: see `make fuzz`.
@main
enum Fuzz {
  /// What is fed to one part of the program. Given an input it returns, or ends the process with what is broken.
  enum Target: String, CaseIterable {
    case segment, index, block, tail, backup, lines, json, answers, requests, frames, pool, broker

    var body: csanitizer_body {
      switch self {
      case .segment: { run($0, $1, SegmentTarget.run) }
      case .index: { run($0, $1, IndexTarget.run) }
      case .block: { run($0, $1, BlockTarget.run) }
      case .tail: { run($0, $1, TailTarget.run) }
      case .backup: { run($0, $1, BackupTarget.run) }
      case .lines: { run($0, $1, LinesTarget.run) }
      case .json: { run($0, $1, JSONTarget.run) }
      case .answers: { run($0, $1, AnswersTarget.run) }
      case .requests: { run($0, $1, RequestsTarget.run) }
      case .frames: { run($0, $1, FramesTarget.run) }
      case .pool: { run($0, $1, PoolTarget.run) }
      case .broker: { run($0, $1, BrokerTarget.run) }
      }
    }
  }

  static func main() {
    let names = Target.allCases.map(\.rawValue).joined(separator: ", ")
    let argument = CommandLine.arguments.first { $0.hasPrefix("--target=") }
    guard let argument, let target = Target(rawValue: String(argument.dropFirst("--target=".utf8.count))) else {
      print("usage: Fuzz --target=NAME [options of libFuzzer] [corpus]\nNAME is one of \(names)")
      exit(64)
    }
    var count = CommandLine.argc
    var arguments: UnsafeMutablePointer<UnsafeMutablePointer<CChar>?>? = CommandLine.unsafeArgv
    exit(LLVMFuzzerRunDriver(&count, &arguments, target.body))
  }
}

private func run(
  _ bytes: UnsafePointer<UInt8>?, _ count: Int, _ body: (inout InputReader) -> Void
) -> Int32 {
  var input = InputReader(UnsafeRawBufferPointer(start: bytes, count: count))
  body(&input)
  return 0
}
